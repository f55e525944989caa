"""Tests of the search, one file for each of its parts."""

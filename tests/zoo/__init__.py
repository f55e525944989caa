"""The model zoo: architectures as exporters write them, with weights drawn when they are loaded."""

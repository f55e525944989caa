"""TensorFlow: Keras models, SavedModels, and files of TensorFlow Lite."""

"""A language model is asked about names of sounds: the questions, the endpoint, the recording of its replies."""

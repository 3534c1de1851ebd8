"""A language model that is asked about names of sounds: the questions, the endpoint, and the recording of its replies."""

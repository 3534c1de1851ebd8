"""What methods are made of: the model and the weights that adapt, running state, moments, guards."""

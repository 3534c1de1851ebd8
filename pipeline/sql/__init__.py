"""SQL over a data set's cache, for users and for the stage that reads many tables at once."""

"""Names of sounds and of classes: their lists, how near they are, the ontology, what heard sounds say of classes."""

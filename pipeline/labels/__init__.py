"""Names of sounds and of classes: their lists, which are near each other, the ontology of sounds, and what heard sounds say about classes."""

"""How the demo set is made: phrases for a soundfont, a canvas and its scenes.  pipeline/datasets/demo.py turns them into clips."""

"""How the demo set is made: a soundfont player and its phrases, a canvas and its scenes.  pipeline/datasets/demo.py turns them into clips."""

"""How the demo set is made: phrases of notes, a canvas, scenes.  pipeline/datasets/demo.py makes clips of them."""

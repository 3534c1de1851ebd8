from pipeline.listener import Listener as Listener

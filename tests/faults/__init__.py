"""What a machine may do to a stage, tried at random: kill it at any write, have no room, run it twice, flip bits."""

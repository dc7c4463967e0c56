"""What all defenders and attackers share: networks, replay, mutual information, tasks and the one training loop."""

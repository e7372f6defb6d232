"""project.yaml and its sections as frozen, validated values."""

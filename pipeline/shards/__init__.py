"""What the stages of sound and faces share."""

"""Questions about video files, asked of a trained model."""

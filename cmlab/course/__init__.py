"""What the notebooks are made of: exercises, predictions, quizzes, sliders."""

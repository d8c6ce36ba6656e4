"""What every room stands on and no reader of the subject needs: words, files, registries."""

"""What is looked at before a worker starts: the machine, the data, the model, the folders."""

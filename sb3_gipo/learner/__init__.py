"""What one ``train()`` is made of: targets over the replay, minibatches, statistics, and what a checkpoint keeps."""

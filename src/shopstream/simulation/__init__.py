"""Who sends events: replays of files, synthetic shoppers and attacks with ground truth."""

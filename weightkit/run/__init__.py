"""From a plan to files: how much memory it takes, how a file is written, where it goes, and when."""

"""Questions as they are asked, and the files that they come from."""

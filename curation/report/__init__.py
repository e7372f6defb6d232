"""Documents for people: the HTML report of a project, and the dataset card and Croissant metadata of a snapshot."""

"""Reports about scores and trainings, made from files alone: `tamft report` and the page of `tamft demo`."""

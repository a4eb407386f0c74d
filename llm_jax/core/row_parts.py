"""What each token of a row of prompt and completion is: the data say it, objectives score the completion alone."""

PADDING, PROMPT, COMPLETION = 0, 1, 2

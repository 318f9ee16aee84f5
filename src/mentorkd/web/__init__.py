"""The local web application: `mentorkd view` looks at runs, `mentorkd serve` answers for their learners."""

"""The report's page: template, style sheet, plots, numbers as words. Knows how things look, not how they came about."""

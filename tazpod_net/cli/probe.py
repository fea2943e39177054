"""`probe`: which mode would be chosen and why. Changes nothing. rich draws the table."""

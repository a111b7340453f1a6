"""Results for people: tables, plots, explanations, contact sheets."""

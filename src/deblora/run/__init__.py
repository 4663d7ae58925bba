"""Run folders, artifacts and the rule by which stages run."""

"""OMOP files into the database: vocabularies and dumps."""

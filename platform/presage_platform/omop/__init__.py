"""The OMOP common data model: tables, imaging extension, vocabulary."""

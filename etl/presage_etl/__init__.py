"""Ingest: health records and images on the left, CDM rows and volumes on the right."""

"""What a hospital writes down: charts as FHIR, exports, the vocabulary, and the CDM that a right load must make."""

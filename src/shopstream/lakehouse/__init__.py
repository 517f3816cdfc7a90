"""What is kept: Iceberg tables of events, dead letters and detections."""

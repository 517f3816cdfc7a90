"""What happened: detections joined into incidents, kept in a store, and what people did about them."""

"""Finding damage (verify), healing it from whatever else holds the bytes (repair), and rebuilding the catalog."""

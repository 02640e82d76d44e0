"""Pictures of a scan, and the page that shows them."""

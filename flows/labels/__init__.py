"""Which examples to label, and the page to label them on."""

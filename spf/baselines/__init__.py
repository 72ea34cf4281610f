"""The methods that SPF-Portrait is compared with: one file per method, one signature, one registry."""

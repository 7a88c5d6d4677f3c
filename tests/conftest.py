"""Its place puts tests/ on the import path: `from support.validators import ...`."""

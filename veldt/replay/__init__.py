"""Experience: streams, and tables that read them. Usable without the rest of the library."""

"""The Lightning modules and callbacks: they call the functions that compute, and compute nothing themselves."""

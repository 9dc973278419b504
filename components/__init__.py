"""What people see: the parts of the pages. The only room besides pages/ that knows Streamlit."""

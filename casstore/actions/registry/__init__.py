"""What people say about versions beside their content: names that move, what is known later, where they came from."""

//! What a client sees of a whole connection.

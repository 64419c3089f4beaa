-- no-transaction
CREATE INDEX CONCURRENTLY ai ON a (i);

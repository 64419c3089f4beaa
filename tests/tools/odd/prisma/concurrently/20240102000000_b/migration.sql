-- CreateIndex
CREATE INDEX CONCURRENTLY ai ON a (i);

CREATE TABLE b (i int);
-- the end
CREATE TABLE zero (i int);

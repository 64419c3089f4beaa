create index concurrently ai on a (i);
create table b (i int);

begin;
create table a (i int);
commit;

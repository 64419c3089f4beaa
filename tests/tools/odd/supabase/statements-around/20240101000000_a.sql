set statement_timeout = '30s';
begin;
create table a (i int);
insert into a values (1);
commit;
do $$ begin raise notice 'made a; all is well'; end $$;

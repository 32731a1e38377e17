SELECT * FROM names;
SELECT A, a, "my field" FROM names;
select a from names where A = 'T' and "my field" = 2;
SELECT "é", "100%", "x=y" FROM names WHERE "é" = 'text';
SELECT count(A) FROM names;
SELECT B FROM names;
SELECT * FROM Names;
